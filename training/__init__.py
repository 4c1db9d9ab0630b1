"""Training a face recogniser on the faces that the pipelines kept, from tables to a pack."""
