"""Lower precision that keeps the explanation: ranges, Q/DQ, fidelity, repair; no torch."""
