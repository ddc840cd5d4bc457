"""Networks: arrays and parameters in, arrays out."""
