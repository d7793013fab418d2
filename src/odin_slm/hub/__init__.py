"""The Hugging Face Hub: client, credentials, upload, and whose terms bind what is uploaded."""
