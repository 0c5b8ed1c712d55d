"""Where documents come from: a settings class for each kind of source, and what it takes to read it."""
