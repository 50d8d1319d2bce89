"""Settings, command line, embedded engines and supervisor; the composition root."""

VERSION = "0.1.0"
BUILD = "dev"
