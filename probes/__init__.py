"""What do the vectors encode? Patient resampling, linear probes, the confounder audit."""
