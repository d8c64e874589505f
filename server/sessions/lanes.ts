// SPDX-License-Identifier: Apache-2.0

/**
 * Takes items in order, so many at a time. Resolves when all are through; once one fails no other begins, and those that run are
 * waited for.
 * @param overlap the next item of a lane begins once the one before called `over`, and at most two of a lane run at a time
 * @throws what the first item threw
 */
export async function inLanes<T>(
  items: readonly T[],
  lanes: number,
  overlap: boolean,
  run: (item: T, over: () => void) => Promise<void>,
): Promise<void> {
  const waiting = [...items]
  const running = new Set<Promise<void>>()
  const lane = async () => {
    let previous: Promise<void> | undefined
    while (waiting.length > 0) {
      const [item] = waiting.splice(0, 1)
      const over = Promise.withResolvers<void>()
      const work = run(item, over.resolve)
      running.add(work)
      work.then(
        () => running.delete(work),
        () => waiting.splice(0),
      )
      await Promise.all([previous, overlap ? Promise.race([over.promise, work]) : work])
      previous = work
    }
    await previous
  }
  try {
    await Promise.all(Array.from({ length: Math.min(lanes, items.length) }, lane))
  } finally {
    await Promise.allSettled(running)
  }
}
