"""From files to batches: readers (files to documents), check, shards (documents to tokens), batches."""
