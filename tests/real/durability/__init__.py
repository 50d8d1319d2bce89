"""Whether what was acknowledged is on the disk, seen from outside: by the system calls that PostgreSQL makes."""
