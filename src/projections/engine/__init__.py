"""What moves read models along the log, and knows none of them."""
