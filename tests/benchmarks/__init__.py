"""What clusters cost: ``make bench``. Numbers compare only within one run, on one machine."""
