"""From configuration to objects: the one place where config meets code."""
