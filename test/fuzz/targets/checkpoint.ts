// SPDX-License-Identifier: Apache-2.0
import { CheckpointError, checkpointChecksum } from '../../../server/hypervisor/pkvm/checkpoint.ts'
import pkvm from '../../../server/hypervisor/pkvm/policy.ts'
import type { Policy } from '../../../server/policy/policy.ts'
import { SILENT } from '../../../server/policy/report.ts'
import { CannotResume, CheckpointWriter, noProgress, readCheckpoint } from '../../../server/trap/checkpoint.ts'
import type { Choices } from '../choices.ts'
import { Finding, isBug, type Target } from '../target.ts'
import { FuzzMachine } from './machine.ts'

/** Word of the state's own checksum. */
const CHECKSUM = 3

/**
 * A checkpoint has been in the peer's hands: what it holds is taken whole or not at all, and a hypervisor that took one goes on
 * to decide whatever the host does.
 */
const checkpoint: Target = {
  name: 'checkpoint',
  summary: "envelopes and the hypervisor's state, with right checksums",
  run(choices) {
    const before = new FuzzMachine()
    const first = policyOf(before)
    first.reset()
    const begun = before.trouble(first, choices)
    const state = Buffer.from(first.state?.checkpoint() ?? [])
    const bytes = choices.once(3) ? envelope(state, choices) : state
    const damaged = choices.once(4) ? bytes : choices.mutate(bytes)
    const restored = bytes === state ? sealed(damaged, choices) : opened(damaged)
    if (restored === undefined) return `${begun}: no envelope`
    const after = new FuzzMachine()
    const second = policyOf(after)
    try {
      second.state?.restore(restored)
      second.state?.resume?.()
    } catch (error) {
      // What it says of its input is meant; what it did not expect is not.
      if (error instanceof CheckpointError || !isBug(error))
        return `refused: ${(error as Error).message.replaceAll(/\d+/g, '0')}`
      throw error
    }
    return `taken, ${after.trouble(second, choices)}`
  },
}

function policyOf({ ports }: FuzzMachine): Policy {
  return pkvm(ports, { options: {}, report: SILENT })
}

/** With the right checksum, mostly. */
function sealed(state: Buffer, choices: Choices): Uint8Array {
  if (choices.once(8)) return state
  const words = new Uint32Array(new Uint8Array(state).buffer, 0, state.length >>> 2).slice()
  if (words.length > CHECKSUM) words[CHECKSUM] = checkpointChecksum(words)
  return new Uint8Array(words.buffer)
}

function envelope(state: Uint8Array, choices: Choices): Buffer {
  const writer = new CheckpointWriter(choices.pick(['', 'a session', 'ü\n']), choices.pick(['pkvm', 'other', '']))
  const progress = Object.assign(noProgress(), { request: choices.u32(), status: choices.byte(), trap: choices.u32() })
  return Buffer.from(writer.write(progress, state))
}

function opened(bytes: Buffer): Uint8Array | undefined {
  try {
    const { session, policy, state } = readCheckpoint(bytes)
    if (typeof session !== 'string' || typeof policy !== 'string') throw new Finding('an envelope without texts')
    return state
  } catch (error) {
    if (error instanceof CannotResume) return undefined
    throw error
  }
}

export default checkpoint
