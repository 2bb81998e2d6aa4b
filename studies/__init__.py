"""Studies: questions that one run does not answer, with seeds, replications and a conclusion in a sentence."""
