"""Evidence: run models in a child process, and compare what they compute."""
