"""shapeworld: generated images of families of similar classes, in which every pixel is known.

Each image shows one object, made of parts, in a scene. The members of a family have most of their parts in common, so
that a trained classifier finds some classes similar. Shape alone decides the class; colour, material and texture are
drawn independently, and a family is more frequent in some places than in others.

Labels have the six categories of Broden: `color`, `object` (the class, and its family), `part`, `material` (of each
part) and `texture` (of the ground) for pixels, `scene` (place and time) for an image as a whole.

An image is a function of seed, split and index alone, and images of different splits or seeds use independent random
numbers.
"""
