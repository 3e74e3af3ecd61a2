//! Real operations on the graph and the loop that carries out builds.
