"""Parts of the benchmark of diagnoses, one module each."""
