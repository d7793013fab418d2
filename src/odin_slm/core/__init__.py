"""What every room stands on: errors, documents, sentences, hashes, redaction, the process's environment."""
