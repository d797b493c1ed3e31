"""The disconnectivity graph."""
def disconnectivity_graph(*a):
    raise NotImplementedError
