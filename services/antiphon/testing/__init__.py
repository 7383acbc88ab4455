"""What tests need and other projects may use: fakes, scripted servers, recorded speech, the engines' conformance suite."""
