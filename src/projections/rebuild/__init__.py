"""Operations of operators on read models: rebuild, compare, switch, drop, retry parked events, show the status."""
