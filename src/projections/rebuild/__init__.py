"""What an operator does with read models: build them again beside, compare, switch, drop, retry, look."""
