"""Files of other tools that instances are written as, one file per format."""
