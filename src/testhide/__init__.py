"""The program: settings, command line, composition root, embedded engines and supervisor."""
