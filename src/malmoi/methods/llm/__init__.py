"""Methods that ask a language model: shots, prompting, tuning, remote endpoints."""
