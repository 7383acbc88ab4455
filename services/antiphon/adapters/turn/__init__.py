"""Room for engines that tell whether a speaker has finished; none yet."""
