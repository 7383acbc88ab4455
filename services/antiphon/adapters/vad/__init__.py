"""Engines that tell speech from everything else."""
