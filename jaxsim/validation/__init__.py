"""Whether scores can be trusted: reference runs, agreement, calibration."""
