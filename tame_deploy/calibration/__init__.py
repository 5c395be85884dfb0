"""Lower precision that keeps the explanation: `calibrate` and `quantize`, without torch."""
