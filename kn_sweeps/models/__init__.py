"""Language models behind one interface: score, answer, record and change MLP neurons."""
