// SPDX-License-Identifier: Apache-2.0
/** What a run of record asks of its machine. */

/** Load of the last minute at which a run of record may begin. */
const QUIET = 0.3
/** The kernel's one-minute load falls by e in this time when nothing runs, s. */
const DECAY_S = 60

/**
 * @param load of the last minute, before anything of the benchmark ran
 * @throws Error that says how long to wait, while it is too high
 */
export function quietEnough(load: number): void {
  if (load <= QUIET) return
  const wait = Math.ceil(DECAY_S * Math.log(load / QUIET))
  throw new Error(
    `a run of record needs a machine with nothing else to do: load ${load.toFixed(2)}, at most ${QUIET}; ` +
      `when nothing else runs, wait ${wait} s`,
  )
}

/** `2 h 5 min`, `7 min`, `40 s`. */
export function duration(seconds: number): string {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
