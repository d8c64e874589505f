// SPDX-License-Identifier: Apache-2.0
/** Programs that made something new happen, and what can be made of them. */
import { type Extra, type Mode, type Operation, type Program, repertoire } from './program.ts'
import type { Random } from './random.ts'

/** Programs that are kept; a further one takes the place of an old one. */
const CAPACITY = 4096
/** Longer programs cost more than they find. */
const MAX_OPERATIONS = 200

export class Corpus {
  readonly #extra: Extra | 'none'
  readonly #programs: Program[] = []
  readonly #byMode: Record<Mode, Program[]> = { hostile: [], driver: [] }
  #oldest = 0

  /** @param extra operations to make programs of besides */
  constructor(extra: Extra | 'none' = 'none') {
    this.#extra = extra
  }

  get size(): number {
    return this.#programs.length
  }

  get programs(): readonly Program[] {
    return this.#programs
  }

  add(program: Program): void {
    const own = this.#byMode[program.mode]
    if (this.#programs.length < CAPACITY) {
      this.#programs.push(program)
      own.push(program)
      return
    }
    const at = this.#oldest++ % CAPACITY
    const old = this.#programs[at]
    this.#programs[at] = program
    const others = this.#byMode[old.mode]
    others.splice(others.indexOf(old), 1)
    own.push(program)
  }

  pick(random: Random, mode: Mode): Program | undefined {
    const programs = this.#byMode[mode]
    if (programs.length === 0) return undefined
    // What came last led further than what came first.
    const late = random.chance(50) ? Math.floor(programs.length * 0.75) : 0
    return programs[late + random.below(programs.length - late)]
  }

  /** A program like another one. */
  mutate(random: Random, parent: Program): Program {
    const known = repertoire(parent.mode, this.#extra)
    let operations: Operation[] = [...parent.operations]
    for (let n = random.below(4); n >= 0; n--) {
      const at = random.below(operations.length + 1)
      switch (random.below(7)) {
        case 0:
          operations.splice(at, 0, known.random(random))
          break
        case 1:
          operations.splice(at, 1 + random.below(4))
          break
        case 2:
          if (at < operations.length) operations[at] = { name: operations[at].name, seed: random.next() }
          break
        case 3: {
          const length = 1 + random.below(8)
          operations.splice(at, 0, ...operations.slice(at, at + length))
          break
        }
        case 4: {
          const other = this.pick(random, parent.mode) ?? parent
          const from = random.below(other.operations.length)
          operations = [...operations.slice(0, at), ...other.operations.slice(from)]
          break
        }
        default:
          for (let more = random.below(16); more >= 0; more--) operations.push(known.random(random))
      }
    }
    if (operations.length === 0) operations.push(known.first(random))
    const interleaving = random.chance(80) ? parent.interleaving : random.below(20)
    return {
      ...parent,
      interleaving: parent.mode === 'driver' ? 0 : interleaving,
      operations: operations.slice(0, MAX_OPERATIONS),
    }
  }
}
