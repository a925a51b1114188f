"""What every other part uses: words, and the machine. The standard library and pickling only."""
