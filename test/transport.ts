// SPDX-License-Identifier: Apache-2.0
import { TRANSPORTS, type Transport } from '../server/trap/messages.ts'

/** What traps of the tests' machines travel through where a test does not say: as for the command line, SMMU_COSIM_TRANSPORT. */
export function transport(): Transport {
  const { SMMU_COSIM_TRANSPORT: named = 'auto' } = process.env
  const found = TRANSPORTS.find(name => name === named)
  if (found === undefined) throw new Error(`SMMU_COSIM_TRANSPORT ${named}: expected one of ${TRANSPORTS.join(', ')}`)
  return found
}
