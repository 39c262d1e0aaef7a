package stuff
