// SPDX-License-Identifier: Apache-2.0
/** All processes of a run, whoever has adopted them: each has a mark in its environment, which it inherits. */
import { randomUUID } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'

export class Mark {
  readonly #value = randomUUID()

  /** For the environment of the first process. */
  get env(): NodeJS.ProcessEnv {
    return { SMMU_COSIM_TEST_RUN: this.#value }
  }

  /** Command lines by process id. */
  get processes(): Map<number, string> {
    const found = new Map<number, string>()
    for (const name of readdirSync('/proc')) {
      if (!/^\d+$/.test(name)) continue
      try {
        if (!readFileSync(`/proc/${name}/environ`, 'latin1').includes(this.#value)) continue
        found.set(Number(name), readFileSync(`/proc/${name}/cmdline`, 'latin1').replaceAll('\0', ' ').trim())
      } catch {} // it has ended, or is somebody else's
    }
    return found
  }

  kill(): void {
    for (const pid of this.processes.keys()) {
      try {
        process.kill(pid, 'SIGKILL')
      } catch {} // it has ended
    }
  }
}
