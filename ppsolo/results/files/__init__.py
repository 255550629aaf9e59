"""Writers of instances in other tools' file formats, one file per format."""
