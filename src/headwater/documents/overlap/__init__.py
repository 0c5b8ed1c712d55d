"""What documents share with each other or with benchmarks: found in bounded memory, cut out or dropped."""
