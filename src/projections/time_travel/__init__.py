"""Looking back: answers as they were, the audit trail in words, and replays."""
