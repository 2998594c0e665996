"""The only place where messages become domain values (`requests`) and domain values messages (`responses`)."""
