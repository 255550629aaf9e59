"""What the scripts that inject faults into commands and into training share."""
