"""`runwire doctor source`: whether each concept of a checkout has one home. The code is read, never run."""
