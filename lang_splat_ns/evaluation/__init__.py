"""How well a language field answers: labelled frames in, scores, pictures and a report out."""
