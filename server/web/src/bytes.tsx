// SPDX-License-Identifier: Apache-2.0
import { useState } from 'preact/hooks'
import type { BitsView } from '../../api/schemas/trace.ts'

const PER_LINE = 16

/** Bytes as they lie in memory, beside the fields in them: pointing at one shows the other. @param hex without 0x */
export function Bytes({ hex, bits = [] }: { hex: string; bits?: readonly BitsView[] | undefined }) {
  const [over, setOver] = useState<{ lo: number; hi: number } | undefined>()
  const bytes = hex.match(/../g) ?? []
  const marked = (lo: number, hi: number) => over !== undefined && lo <= over.hi && hi >= over.lo
  const lines = Array.from({ length: Math.ceil(bytes.length / PER_LINE) }, (_, i) => i * PER_LINE)
  const leave = () => setOver(undefined)
  return (
    <div class="bytes">
      <table class="dump">
        <tbody>
          {lines.map(from => (
            <tr key={from}>
              {lines.length > 1 && <th scope="row">{from.toString(16).padStart(2, '0')}</th>}
              {bytes.slice(from, from + PER_LINE).map((byte, i) => {
                const lo = (from + i) * 8
                return (
                  <td
                    key={i}
                    class={marked(lo, lo + 7) ? 'on' : ''}
                    onMouseEnter={() => setOver({ lo, hi: lo + 7 })}
                    onMouseLeave={leave}
                  >
                    {byte}
                  </td>
                )
              })}
            </tr>
          ))}
        </tbody>
      </table>
      {bits.length > 0 && (
        <table class="bit-fields">
          <tbody>
            {bits.map(({ name, hi, lo, value }) => (
              <tr
                key={`${name} ${lo}`}
                class={marked(lo, hi) ? 'on' : ''}
                onMouseEnter={() => setOver({ lo, hi })}
                onMouseLeave={leave}
              >
                <td class="muted">{hi === lo ? `[${lo}]` : `[${hi}:${lo}]`}</td>
                <th scope="row">{name}</th>
                <td>{value}</td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
    </div>
  )
}
