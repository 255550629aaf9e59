"""Training and evaluation: loops, optimisation, bookkeeping and the COCO numbers."""
