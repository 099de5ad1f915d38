"""From preference pairs to token ids: templates, tokenizer, worker processes, files and their cache."""
