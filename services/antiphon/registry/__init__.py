"""Who can say what, where, right now: records in Redis, their writers, a pushed snapshot and the choice of a worker."""
