"""What tests need, here and elsewhere: fakes, a scripted chat server, recorded speech, the conformance suite."""
