"""What nodes cost on a target: measured, calibrated on the machine, or estimated from peak rates."""
