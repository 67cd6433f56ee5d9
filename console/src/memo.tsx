// A component that is drawn again only when one of its properties is another: long chats stay quick.
import { Component, type ComponentChildren, type ComponentType } from "preact";

export function memo<P extends object>(draw: (properties: P) => ComponentChildren): ComponentType<P> {
  return class extends Component<P> {
    override shouldComponentUpdate(next: P): boolean {
      const now = this.props as Record<string, unknown>;
      return Object.entries(next).some(([name, value]) => now[name] !== value);
    }
    override render(): ComponentChildren {
      return draw(this.props as P);
    }
  } as unknown as ComponentType<P>;
}
