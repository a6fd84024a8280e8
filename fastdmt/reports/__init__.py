"""What a person looks at: reports, predictions, players."""
