"""What a run tells a person when it ends."""
