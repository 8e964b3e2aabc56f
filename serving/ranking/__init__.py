"""From a request and its user to a ranking: the merger, candidates, scores, filters, explanations, kept answers."""
