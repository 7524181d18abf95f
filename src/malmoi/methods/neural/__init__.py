"""Networks that are fitted to one task: recurrent ones and Transformers, behind one `Neural` method."""
